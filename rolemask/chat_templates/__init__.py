"""What a chat template writes, and proofs of marker sets against it."""
