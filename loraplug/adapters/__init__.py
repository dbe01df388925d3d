"""Validates adapter folders and attaches them to models. Independent of recipes and runs; plugins use it through
`ModelReference.load`.
"""
