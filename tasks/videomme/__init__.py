"""Video-MME"""
