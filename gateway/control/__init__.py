"""The operator's verbs: what people ask for on the command line, outside the way of a request."""
