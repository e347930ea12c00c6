"""An in-memory Kubernetes API, enough for real helm and kubectl: schemas and lifecycle, nothing runs behind."""
