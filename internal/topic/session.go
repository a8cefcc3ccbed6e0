package topic

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// ShortestSession gives the shortest time that every broker takes as a member's session
// (group.min.session.timeout.ms); 0 where they do not say.
func (c *Client) ShortestSession(ctx context.Context) (time.Duration, error) {
	const key = "group.min.session.timeout.ms"
	brokers, err := c.admin.ListBrokers(ctx)
	if err != nil {
		return 0, fmt.Errorf("the brokers' %s: %w", key, err)
	}
	described, err := c.admin.DescribeBrokerConfigs(ctx, brokers.NodeIDs()...)
	if err != nil {
		return 0, fmt.Errorf("the brokers' %s: %w", key, err)
	}
	var out time.Duration
	for _, b := range described {
		if b.Err != nil {
			return 0, fmt.Errorf("%s of broker %s: %w", key, b.Name, b.Err)
		}
		for _, x := range b.Configs {
			if x.Key != key || x.Value == nil {
				continue
			}
			ms, err := strconv.ParseInt(*x.Value, 10, 32)
			if err != nil {
				return 0, fmt.Errorf("%s of broker %s: %w", key, b.Name, err)
			}
			out = max(out, time.Duration(ms)*time.Millisecond)
		}
	}
	return out, nil
}
