"""From raw sources to checked RecBole atomic files; nothing here imports RecBole.

Read in the order of the data: `lines` and `rows` (files -> rows), `tables`, `amazon`, `movielens`, `steam`,
`s3rec` (rows -> one common form), `interactions`, `kcore` and `clean` (the common form, filtered), `pipeline`
and `atomic` (-> `.inter`/`.item`), `check` (is the dataset sound?), `download` (RecBole's own zips),
`synthetic` (a known catalogue).
"""
