-- Which judgments a policy version was really trained on: of its snapshot, those that were neither
-- held out to measure it nor too long for it.
CREATE TABLE policy_judgments (
    policy_version VARCHAR NOT NULL,
    judgment_id VARCHAR NOT NULL
);

-- Until now that was not recorded; the whole snapshot is the closest that can be said.
INSERT INTO policy_judgments
SELECT p.version, s.judgment_id
FROM policies p JOIN snapshot_judgments s ON s.snapshot_id = p.snapshot_id;
