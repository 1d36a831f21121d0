"""Decides which tokens are trained, from compiled rules, a policy and token ids."""
