"""TVBench"""
