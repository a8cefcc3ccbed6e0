package topic

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/freshet-io/freshet/internal/fault"
)

// Names gives the topics of this system, sorted, as they were at most a moment ago.
func (c *Client) Names(ctx context.Context) ([]string, error) {
	all, err := c.admin.ListTopics(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing the topics %s.*: %w", c.cfg.Prefix, err)
	}
	return slices.DeleteFunc(all.Names(), func(name string) bool { return !strings.HasPrefix(name, c.cfg.Prefix+".") }), nil
}

// RemoveAll deletes every topic of this system, and all that is in them: what a benchmark or a test
// leaves in a Kafka that others use.
func (c *Client) RemoveAll(ctx context.Context) error {
	own, err := c.Names(ctx)
	if err != nil || len(own) == 0 {
		return err
	}
	return c.Remove(ctx, own...)
}

// Remove deletes topics, and all that is in them; those that are not there are no error.
func (c *Client) Remove(ctx context.Context, names ...string) error {
	gone, err := c.admin.DeleteTopics(ctx, names...)
	for _, g := range gone {
		if !errors.Is(g.Err, kerr.UnknownTopicOrPartition) {
			err = errors.Join(err, g.Err)
		}
	}
	if err != nil {
		return fault.Wrap(fault.Failed, err, "the topics %s could not be deleted", strings.Join(names, ", ")).At("kafka")
	}
	return nil
}
