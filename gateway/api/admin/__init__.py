"""The admin API: the operator's verbs over HTTP, on a port of its own. Every handler says who may use it."""
