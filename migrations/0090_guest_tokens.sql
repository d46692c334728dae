-- The personal access token that the acceptance has given; it goes with the invitation.
ALTER TABLE invites ADD COLUMN token_id TEXT;
