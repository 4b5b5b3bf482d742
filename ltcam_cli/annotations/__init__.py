"""Annotation formats of other tools: masks as documents, and documents as masks."""
