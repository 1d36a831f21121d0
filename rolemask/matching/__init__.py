"""A marker set and a tokenizer: every way in which tokens can spell a marker."""
