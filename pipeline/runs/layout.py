"""Names of the files and folders of a run."""

RECIPE, ENVIRONMENT, CORPUS, TOKENIZER = "recipe.yaml", "environment.json", "corpus", "tokenizer"
CIRCUITS = "circuits"  # tables of the analyses
FIGURES = "figures"  # of the report
