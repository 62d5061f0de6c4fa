package client

import "time"

// SetSilence has a request wait for less before its node is asked for a sign of
// life.
func (c *Client) SetSilence(d time.Duration) { c.silence = d }
