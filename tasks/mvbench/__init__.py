"""MVBench"""
