"""TOMATO: its rows as questions, and its tasks."""
