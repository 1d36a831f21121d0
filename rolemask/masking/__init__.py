"""Rules, a policy and token ids: which tokens are trained."""
