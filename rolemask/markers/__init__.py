"""What a marker set is, and the YAML that it is read from."""
