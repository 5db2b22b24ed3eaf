"""The report page: one self-contained HTML file of a run, with its figures, tables and question cards inside."""
