"""What was used and who pays: the journal and what is read from it. Decides nothing about a request."""
