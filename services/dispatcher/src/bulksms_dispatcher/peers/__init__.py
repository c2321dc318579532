"""The only calls to other services of ours: each with a deadline, its errors as domain errors."""
