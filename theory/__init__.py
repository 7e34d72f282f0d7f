"""Closed forms: what the measurements must equal where mathematics knows the answer."""
