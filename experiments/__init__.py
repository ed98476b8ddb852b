"""Entry points: compose a configuration, call one pipeline, show what it did."""
