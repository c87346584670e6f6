"""From raw sources to checked atomic files, and the one reader of atomic files; nothing here imports RecBole.

In the order of the data: `text_reader` and `record_reader` (files -> records), `sources` and its kinds `table_source`,
`releases`, `movielens`, `s3rec` (records -> one common form, with cells by `normalize`), `interactions` (the
common form, filtered), `pipeline` and `atomic_writer` (-> `.inter`, `.item`), `atomic_reader` and `check`
(is the dataset sound?); beside them `download` (RecBole's zips) and `synthetic` (a catalogue with known answers).
"""
