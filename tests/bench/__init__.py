"""Measures the node, and what people would use instead, on the same work in the same run.

python -m tests.bench             all scenarios of issue 7, each three times, alternating
python -m tests.bench --short     a small form that needs no competitor
python -m tests.bench --profile 1 where the nodes' time goes in scenario 1
"""
