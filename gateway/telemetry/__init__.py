"""Spans and logs of finished requests. Told by plain records, knows no stage; costs a request next to nothing."""
