"""The house's own customer: asks every model through the proxy every few minutes, as customers do, and keeps what
happened for a month. It pays nothing, belongs to nobody, and is metered like anybody.
"""
