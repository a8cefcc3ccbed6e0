package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/fault"
)

func tailCommand() *cobra.Command {
	var in freshetv1.SubscribeRequest
	var keys []string
	c := &cobra.Command{
		Use: "tail VIEW", Short: "Follow the deltas of a view", Args: cobra.ExactArgs(1),
		Long: "Follows the deltas of a view, all or those that fulfil every filter given. What filters leave out shows as gaps\n" +
			"in the sequence; deletions are left out by --key and --cause only.",
		Example: "  freshet tail plane_delays\n  freshet tail plane_delays --from-start -o jsonl\n" +
			"  freshet tail plane_delays --key N14228 --feature arr_delay_1d --where 'arr_delay_1d > 30'",
	}
	c.Flags().BoolVar(&in.FromStart, "from-start", false, "from the first delta kept; else only what is new")
	c.Flags().StringVar(&in.AfterPosition, "after", "", "go on at this position; its own deltas come again, since they may be a part")
	c.Flags().Int32SliceVar(&in.Partitions, "partition", nil, "only these partitions")
	c.Flags().StringArrayVar(&keys, "key", nil, "only this entity, its parts as a JSON array of texts if it has several; may be given again")
	c.Flags().StringSliceVar(&in.Features, "feature", nil, "only these features, and only deltas that change one of them")
	c.Flags().StringSliceVar(&in.Causes, "cause", nil, "only these causes: change, retraction, entry, expiry, backfill, snapshot")
	c.Flags().StringVar(&in.Where, "where", "", "only rows that fulfil this expression over the view's features")
	return remoteFollow(c, func(ctx context.Context, conn *grpc.ClientConn, args []string, output string) error {
		in.View = args[0]
		for _, k := range keys {
			key, err := keyOfText(k)
			if err != nil {
				return err
			}
			in.Keys = append(in.Keys, key)
		}
		stream, err := freshetv1.NewFeatureStoreClient(conn).Subscribe(ctx, &in)
		if err != nil {
			return err
		}
		columns := &freshetv1.Columns{}
		for {
			r, err := stream.Recv()
			if err == io.EOF { //nolint:errorlint // a stream's end is never wrapped
				return nil
			}
			if err != nil {
				return err
			}
			if r.Columns != nil {
				columns = r.Columns
			}
			for _, d := range r.Deltas {
				if err := printDelta(os.Stdout, columns, d, output); err != nil {
					return err
				}
			}
		}
	})
}

// keyOfText reads an entity's key as topics have it: the text, or a JSON array of texts.
func keyOfText(text string) (*freshetv1.Key, error) {
	parts := []string{text}
	if strings.HasPrefix(text, "[") {
		if err := json.Unmarshal([]byte(text), &parts); err != nil {
			return nil, fault.Wrap(fault.Usage, err, "--key %s", text).ToMend(`write the parts as texts: --key '["JFK","B6"]'`)
		}
	}
	key := &freshetv1.Key{}
	for _, p := range parts {
		key.Values = append(key.Values, &freshetv1.Value{Kind: &freshetv1.Value_String_{String_: p}})
	}
	return key, nil
}

// printDelta prints one delta as a line: JSON, or for people what changed. A feature that was not there
// yet when the delta was written is left out; NULL is null.
func printDelta(w io.Writer, c *freshetv1.Columns, d *freshetv1.Delta, output string) error {
	features := map[string]any{}
	for i, v := range d.Features {
		if v.GetKind() != nil {
			features[c.Names[i]] = plain(v)
		}
	}
	if output != "table" {
		key := map[string]any{}
		for i, v := range d.Key.GetValues() {
			key[c.KeyNames[i]] = plain(v)
		}
		out := map[string]any{
			"key": key, "partition": d.Partition, "generation": d.Generation, "sequence": d.Sequence, "version": d.Version,
			"op": d.Op, "cause": d.Cause, "position": d.Position, "commit_time": instant(&d.CommitTime),
			"log_time": instant(&d.LogTime), "event_time": instant(d.EventTime), "changed": append([]string{}, d.Changed...),
		}
		if len(d.Features) > 0 {
			out["features"] = features
		}
		return json.NewEncoder(w).Encode(out)
	}
	var key, changed []string
	for _, v := range d.Key.GetValues() {
		key = append(key, text(plain(v)))
	}
	for _, name := range d.Changed {
		changed = append(changed, name+"="+text(features[name]))
	}
	_, err := fmt.Fprintf(w, "%v p%d #%d %s v%d %s (%s) %s\n", instant(&d.LogTime), d.Partition, d.Sequence,
		strings.Join(key, ","), d.Version, d.Op, d.Cause, strings.Join(changed, " "))
	return err
}
