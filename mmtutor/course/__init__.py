"""Support that is no lesson: weights, records, figures and the command line."""
