"""The hub for dialects that are not OpenAI Chat's: requests read from it, answers written in it."""
