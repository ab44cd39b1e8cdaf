//! What hawser knows to check: each check is data and a pure function of a snapshot.
