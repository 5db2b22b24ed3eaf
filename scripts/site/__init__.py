"""The documentation's site: pages that are made from the code, and links out of docs/ (mkdocs.yml)."""
