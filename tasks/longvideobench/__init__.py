"""LongVideoBench"""
