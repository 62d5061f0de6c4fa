package client

import "time"

// SetPatience has a request wait for so long before its node is asked for a sign of
// life, and for that.
func (c *Client) SetPatience(silence, patience time.Duration) {
	c.silence, c.patience = silence, patience
}
