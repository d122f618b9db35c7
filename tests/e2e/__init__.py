"""The mesh as its users meet it: `tulle up`, then what they type and what they see."""
