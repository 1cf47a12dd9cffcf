"""The cells of pgoutput's tuples become Arrow arrays, exactly as the initial copy lands the same values.

Which type a column has, origin/column_types.py decides; here each of its decisions has a decoder for the text and one
for the binary form. `columns.decode_column` is the entry.
"""
