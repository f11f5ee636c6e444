"""In-context learning: reference learners, models that read prompts of examples, and how alike the two are."""
