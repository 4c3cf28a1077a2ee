"""Questions to a run: what it answers a prompt, at one step or over all of them, beside what its corpus knows."""
