-- When a practice item was last given to people or taken back; NULL as long as it never was. Of two
-- accounts of an item, that of the database and that of the journal, the newer one holds.
ALTER TABLE practice_items ADD COLUMN changed_at TIMESTAMPTZ;
