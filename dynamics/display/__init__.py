"""How objects show themselves: numbers, tables, cards and small curves, as plain text and as HTML.

Nothing here knows what it shows. Records and results say what is in a table or a card; these modules lay it out. Text
in HTML is escaped, and no colour is set, so that both of Jupyter's themes can be read.
"""
