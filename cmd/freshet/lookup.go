package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
	"github.com/freshet-io/freshet/internal/fault"
)

// remote makes a command that talks to a running system and answers soon.
func remote(c *cobra.Command, run func(ctx context.Context, conn *grpc.ClientConn, args []string, output string) error) *cobra.Command {
	return remoteFor(c, 10*time.Second, run)
}

// remoteLong is remote for work that may take long.
func remoteLong(c *cobra.Command, run func(ctx context.Context, conn *grpc.ClientConn, args []string, output string) error) *cobra.Command {
	return remoteFor(c, time.Hour, run)
}

// remoteFollow is remote for what has no end.
func remoteFollow(c *cobra.Command, run func(ctx context.Context, conn *grpc.ClientConn, args []string, output string) error) *cobra.Command {
	return remoteFor(c, 0, run)
}

func remoteFor(c *cobra.Command, limit time.Duration, run func(ctx context.Context, conn *grpc.ClientConn, args []string, output string) error) *cobra.Command {
	address, output := serverFlags(c), new(string)
	outputFlag(c, output)
	timeout := c.Flags().Duration("timeout", limit, "how long to wait; 0: without end")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := checkOutput(*output); err != nil {
			return err
		}
		server, err := address()
		if err != nil {
			return err
		}
		conn, err := grpc.NewClient(server, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return fault.Wrap(fault.Usage, err, "--server %q", server)
		}
		defer conn.Close() //nolint:errcheck // nothing depends on a clean goodbye
		ctx, cancel := c.Context(), func() {}
		if *timeout > 0 {
			ctx, cancel = context.WithTimeout(ctx, *timeout)
		}
		defer cancel()
		err = run(ctx, conn, args, *output)
		if status.Code(err) == codes.DeadlineExceeded && ctx.Err() != nil {
			return fault.New(fault.Timeout, "no answer from %s within %s: %s", server, *timeout, status.Convert(err).Message()).ToMend("give it longer with --timeout")
		}
		if status.Code(err) == codes.Unavailable {
			return fault.New(fault.Unreachable, "nothing answers at %s: %s", server, status.Convert(err).Message()).
				ToMend("start freshet up -c FILE, or name the address with --server or FRESHET_SERVER, or the configuration with -c")
		}
		return err
	}
	return c
}

func getCommand() *cobra.Command {
	var after string
	var stale bool
	var generation uint32
	c := &cobra.Command{
		Use: "get VIEW KEY...", Short: "Look one entity up", Args: cobra.MinimumNArgs(2),
		Example: "  freshet get plane_delays N14228\n  freshet get carrier_punctuality JFK B6 -o json\n  freshet get plane_delays N14228 --return-stale\n" +
			"  freshet get plane_delays N14228 --generation 2",
		Long: "Looks one entity up, at any node. --generation N asks for one generation of the view: for the row that one which is held (freshet apply --hold) would show,\n" +
			"under its own columns, as of the position that is printed; it has no version. Other readers never see it. Of the generation that is shown it gives what is shown; of one\n" +
			"that is built still, or is not shown any more, no row, and why.",
	}
	c.Flags().BoolVar(&stale, "return-stale", false, "when the owner of the entity cannot be reached, take what a warm copy has; it is marked")
	c.Flags().StringVar(&after, "min-position", "", "wait until this LSN or position is folded")
	c.Flags().Uint32Var(&generation, "generation", 0, "of the view; 0: the one that is shown")
	return remote(c, func(ctx context.Context, conn *grpc.ClientConn, args []string, output string) error {
		key := &freshetv1.Key{}
		for _, k := range args[1:] {
			key.Values = append(key.Values, &freshetv1.Value{Kind: &freshetv1.Value_String_{String_: k}})
		}
		r, err := freshetv1.NewFeatureStoreClient(conn).Get(ctx, &freshetv1.GetRequest{
			Selections: []*freshetv1.Selection{{View: args[0], Generation: generation}}, Keys: []*freshetv1.Key{key}, MinPosition: after, ReturnStale: stale,
		})
		if err != nil {
			return err
		}
		return printRow(c.OutOrStdout(), r, args, output)
	})
}

func printRow(to io.Writer, r *freshetv1.GetResponse, args []string, output string) error {
	row, columns := r.Rows[0], r.Columns[0]
	values, key := map[string]any{}, map[string]any{}
	for i, v := range row.Values {
		values[columns.Names[i]] = plain(v)
	}
	for i, name := range columns.KeyNames {
		key[name] = args[i+1]
	}
	if output == "json" {
		out := map[string]any{
			"key": key, "view": args[0], "status": row.Status.String(), "version": row.Version, "position": row.Position,
			"event_time": instant(row.EventTime), "commit_time": instant(row.CommitTime), "log_time": instant(row.LogTime),
		}
		if row.Status == freshetv1.Status_PRESENT {
			out["values"] = values
		}
		if row.Reason != "" {
			out["reason"] = row.Reason
		}
		if x := row.Stale; x != nil {
			out["stale"] = map[string]any{
				"node": x.Node, "copy": x.Copy, "position": x.Position, "log_time": instant(&x.LogTime), "age_seconds": time.Duration(x.AgeUs * 1000).Seconds(),
			}
		}
		e := json.NewEncoder(to)
		e.SetIndent("", "  ")
		return e.Encode([]any{out})
	}
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "status\t%s\n", row.Status)
	if row.Version > 0 {
		fmt.Fprintf(w, "version\t%d\n", row.Version)
	}
	if row.Position != "" {
		fmt.Fprintf(w, "position\t%s\nlog_time\t%v\n", row.Position, instant(row.LogTime))
	}
	if row.Reason != "" {
		fmt.Fprintf(w, "reason\t%s\n", row.Reason)
	}
	if x := row.Stale; x != nil {
		fmt.Fprintf(w, "stale\tas of %s, %s ago, by node %s\n", x.Position, time.Duration(x.AgeUs*1000).Round(time.Millisecond), x.Node)
	}
	for i, name := range columns.Names {
		if i < len(row.Values) {
			fmt.Fprintf(w, "%s\t%s\n", name, text(plain(row.Values[i])))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if row.Status == freshetv1.Status_NOT_FOUND {
		return fault.New(fault.NotFound, "view %s has no such entity", args[0])
	}
	return nil
}

func instant(us *int64) any {
	if us == nil {
		return nil
	}
	return time.UnixMicro(*us).UTC().Format(time.RFC3339Nano)
}

// plain gives a value as JSON prints it.
func plain(v *freshetv1.Value) any {
	switch k := v.GetKind().(type) {
	case *freshetv1.Value_Bool:
		return k.Bool
	case *freshetv1.Value_Int64:
		return k.Int64
	case *freshetv1.Value_Double:
		return k.Double
	case *freshetv1.Value_Decimal:
		return json.Number(k.Decimal)
	case *freshetv1.Value_String_:
		return k.String_
	case *freshetv1.Value_Bytes:
		return k.Bytes
	case *freshetv1.Value_Date:
		switch k.Date {
		case math.MaxInt32:
			return "infinity"
		case math.MinInt32:
			return "-infinity"
		}
		return time.Unix(int64(k.Date)*86400, 0).UTC().Format(time.DateOnly)
	case *freshetv1.Value_Timestamp:
		return instant(&k.Timestamp)
	case *freshetv1.Value_Uuid:
		return fmt.Sprintf("%x-%x-%x-%x-%x", k.Uuid[:4], k.Uuid[4:6], k.Uuid[6:8], k.Uuid[8:10], k.Uuid[10:])
	case *freshetv1.Value_List:
		list := make([]any, len(k.List.GetValues()))
		for i, e := range k.List.GetValues() {
			list[i] = plain(e)
		}
		return list
	}
	return nil
}

func viewsCommand() *cobra.Command {
	c := &cobra.Command{Use: "views", Short: "List the feature views with their lag", Example: "  freshet views", Args: cobra.NoArgs}
	return remote(c, func(ctx context.Context, conn *grpc.ClientConn, _ []string, output string) error {
		r, err := freshetv1.NewFeatureStoreClient(conn).Describe(ctx, &freshetv1.DescribeRequest{})
		if err != nil {
			return err
		}
		if output == "json" {
			return json.NewEncoder(os.Stdout).Encode(r)
		}
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "VIEW\tGROUP\tSOURCE\tFEATURES\tDELTAS\tLOG TIME (oldest partition)")
		for _, v := range r.Views {
			oldest := int64(0)
			for _, p := range r.Partitions {
				if p.Group == v.Group && (oldest == 0 || p.LogTime < oldest) {
					oldest = p.LogTime
				}
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%v\n", v.Name, v.Group, v.Source, len(v.Columns.Names), v.Deltas, instant(&oldest))
		}
		if err := w.Flush(); err != nil {
			return err
		}
		for _, v := range r.Views {
			if n := len(v.Stopped); n > 0 {
				at := v.Stopped[0]
				fmt.Printf("\n%s stands still in %d of %d partitions, in %d since %s: %s\n  to mend: %s\n", v.Name, n, v.Partitions, at.Partition, at.Position, at.Reason, at.Mend)
			}
			if told := generationText(v); told != "" {
				fmt.Printf("\n%s\n", told)
			}
		}
		return nil
	})
}

func cutCommand() *cobra.Command {
	c := &cobra.Command{Use: "cut", Short: "Put a cut at the next commit boundary", Example: "  freshet cut", Args: cobra.NoArgs}
	return remote(c, func(ctx context.Context, conn *grpc.ClientConn, _ []string, output string) error {
		r, err := freshetv1.NewAdminClient(conn).Cut(ctx, &freshetv1.CutRequest{})
		if err != nil {
			return err
		}
		if output == "json" {
			return json.NewEncoder(os.Stdout).Encode(r)
		}
		fmt.Printf("%s at %s, log time %v; %s\n", r.Id, r.Position, instant(&r.LogTime), stoodStill(time.Duration(r.Pause)*time.Microsecond, ""))
		return nil
	})
}
