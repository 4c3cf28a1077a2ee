"""From corpora and texts to rows of tokens: tokenizers, batches, the order of rows, replayed text. Needs torch."""
