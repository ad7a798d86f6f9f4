"""Questions with worked answers, and how a model is asked them."""
