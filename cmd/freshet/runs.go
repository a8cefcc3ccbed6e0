package main

import (
	"context"
	"os"
	"os/user"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	freshetv1 "github.com/freshet-io/freshet/api/freshet/v1"
)

// long makes a command of a streaming call: progress to stderr, the result to stdout, also when a gate
// holds the run, so that its evidence is seen.
func long(c *cobra.Command, call func(ctx context.Context, a freshetv1.AdminClient, args []string) (receiver, error)) *cobra.Command {
	return remoteLong(c, func(ctx context.Context, conn *grpc.ClientConn, args []string, output string) error {
		r, err := call(ctx, freshetv1.NewAdminClient(conn), args)
		if err != nil {
			return err
		}
		b, held := follow(r)
		if len(b) > 0 {
			if err := showJSON(b, output); err != nil {
				return err
			}
		}
		return held
	})
}

func arg(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return ""
}

func mergeCommand() *cobra.Command {
	c := &cobra.Command{Use: "merge", Short: "Merge deltas into the historical tables, through five gates", Example: "  freshet merge run plane_delays\n  freshet merge list"}
	var cut string
	call := func(action string) func(context.Context, freshetv1.AdminClient, []string) (receiver, error) {
		return func(ctx context.Context, a freshetv1.AdminClient, args []string) (receiver, error) {
			in := &freshetv1.MergeRequest{Action: action, View: arg(args), Cut: cut}
			if action == "show" {
				in.View, in.Run = "", arg(args)
			}
			return a.Merge(ctx, in)
		}
	}
	run := long(&cobra.Command{
		Use: "run [VIEW]", Short: "Merge a view, or all, at a new cut", Args: cobra.MaximumNArgs(1),
		Example: "  freshet merge run plane_delays\n  freshet merge run --cut cut-12",
	}, call("run"))
	run.Flags().StringVar(&cut, "cut", "", "a cut that is there already; left out: a new one")
	c.AddCommand(run,
		long(&cobra.Command{Use: "list [VIEW]", Short: "List merges", Example: "  freshet merge list", Args: cobra.MaximumNArgs(1)}, call("list")),
		long(&cobra.Command{
			Use: "show RUN", Short: "Show a merge with the evidence of its gates", Args: cobra.ExactArgs(1),
			Example: "  freshet merge show merge-plane_delays-cut-0000000012 -o json",
		}, call("show")))
	return c
}

func scoreCommand() *cobra.Command {
	c := &cobra.Command{Use: "score", Short: "Score models over the current features, where they lie", Example: "  freshet score run late_risk\n  freshet score list"}
	var changed bool
	call := func(action string) func(context.Context, freshetv1.AdminClient, []string) (receiver, error) {
		return func(ctx context.Context, a freshetv1.AdminClient, args []string) (receiver, error) {
			in := &freshetv1.ScoreRequest{Action: action, Model: arg(args), Changed: changed}
			if action == "show" {
				in.Model, in.Run = "", arg(args)
			}
			return a.Score(ctx, in)
		}
	}
	run := long(&cobra.Command{
		Use: "run MODEL", Short: "Score a model at the newest merged cut", Example: "  freshet score run late_risk", Args: cobra.ExactArgs(1),
	}, call("run"))
	run.Flags().BoolVar(&changed, "changed", false, "only entities that changed (not there yet)")
	c.AddCommand(run,
		long(&cobra.Command{Use: "list [MODEL]", Short: "List scoring runs", Example: "  freshet score list", Args: cobra.MaximumNArgs(1)}, call("list")),
		long(&cobra.Command{
			Use: "show RUN", Short: "Show a scoring run with its evidence", Args: cobra.ExactArgs(1),
			Example: "  freshet score show score-late_risk-cut-0000000012 -o json",
		}, call("show")))
	return c
}

func pipelineCommand() *cobra.Command {
	c := &cobra.Command{Use: "pipeline", Short: "Run pipelines by hand and see their runs", Example: "  freshet pipeline run nightly\n  freshet pipeline list"}
	call := func(action string) func(context.Context, freshetv1.AdminClient, []string) (receiver, error) {
		return func(ctx context.Context, a freshetv1.AdminClient, args []string) (receiver, error) {
			in := &freshetv1.PipelineRequest{Action: action, Name: arg(args)}
			if action == "show" {
				in.Name, in.Run = "", arg(args)
			}
			return a.Pipeline(ctx, in)
		}
	}
	c.AddCommand(
		long(&cobra.Command{Use: "run PIPELINE", Short: "Run a pipeline now, at one new cut", Example: "  freshet pipeline run nightly", Args: cobra.ExactArgs(1)}, call("run")),
		long(&cobra.Command{Use: "list [PIPELINE]", Short: "List runs of pipelines", Example: "  freshet pipeline list", Args: cobra.MaximumNArgs(1)}, call("list")),
		long(&cobra.Command{
			Use: "show RUN", Short: "Show a pipeline's run", Args: cobra.ExactArgs(1),
			Example: "  freshet pipeline show pipeline-nightly-20130130T020000Z -o json",
		}, call("show")))
	return c
}

func modelCommand() *cobra.Command {
	c := &cobra.Command{Use: "model", Short: "Models: add them, judged by their parity files, and list them", Example: "  freshet model add\n  freshet model list"}
	sub := func(use, action, short, example string, args cobra.PositionalArgs) *cobra.Command {
		return remoteLong(&cobra.Command{
			Use: use, Short: short, Example: example, Args: args,
		}, func(ctx context.Context, conn *grpc.ClientConn, args []string, output string) error {
			r, err := freshetv1.NewAdminClient(conn).Model(ctx, &freshetv1.ModelRequest{Action: action, Name: arg(args)})
			if err != nil {
				return err
			}
			return showJSON(r.ResultJson, output)
		})
	}
	c.AddCommand(sub("add", "add", "Judge every defined model by its parity file and put it into storage", "  freshet model add", cobra.NoArgs),
		sub("list", "list", "List the models", "  freshet model list", cobra.NoArgs),
		sub("show MODEL", "show", "Show a model", "  freshet model show late_risk -o json", cobra.ExactArgs(1)))
	return c
}

func gateCommand() *cobra.Command {
	c := &cobra.Command{Use: "gate", Short: "Decide about a run that a gate holds", Example: "  freshet gate ack merge-plane_delays-cut-0000000012 --why 'new airline, checked'"}
	var why string
	sub := func(action, short, example string) *cobra.Command {
		return remoteLong(&cobra.Command{Use: action + " RUN", Short: short, Example: example, Args: cobra.ExactArgs(1)},
			func(ctx context.Context, conn *grpc.ClientConn, args []string, _ string) error {
				in := &freshetv1.GateRequest{Action: action, Run: args[0]}
				if action == "ack" {
					in.View = who() + ": " + why
				}
				r, err := freshetv1.NewAdminClient(conn).Gate(ctx, in)
				if err != nil {
					return err
				}
				_, err = os.Stdout.WriteString(r.Message + "\n")
				return err
			})
	}
	ack := sub("ack", "Let what failed pass, with a reason that is kept", "  freshet gate ack merge-plane_delays-cut-0000000012 --why 'new airline, checked'")
	ack.Flags().StringVar(&why, "why", "", "the reason, kept with the run")
	c.AddCommand(ack,
		sub("discard", "Give the held run up; the next merge includes its interval", "  freshet gate discard merge-plane_delays-cut-0000000012"),
		sub("rebuild", "Rebuild the table (not there yet)", "  freshet gate rebuild merge-plane_delays-cut-0000000012"))
	return c
}

func who() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return "unknown"
}
