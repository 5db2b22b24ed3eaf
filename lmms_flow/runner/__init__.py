"""Joins the rooms: the loaded model, and what answers the harness's requests with it."""
