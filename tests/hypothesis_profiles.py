"""How many examples Hypothesis tries; no time limits, since machines differ."""

import hypothesis

hypothesis.settings.register_profile(
  "default", max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.register_profile(
  "thorough", max_examples=400, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
)
hypothesis.settings.load_profile("default")
