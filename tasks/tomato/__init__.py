"""TOMATO"""
