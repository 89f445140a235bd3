"""Celery, set up as https://docs.celeryq.dev/en/stable/userguide/optimizing.html recommends for short tasks."""
