// Command freshet is the whole system in one binary. A file per subcommand; the only place with
// flags, logs and wiring.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	_ "time/tzdata" // schedules in named time zones, in images that have none

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/freshet-io/freshet/internal/fault"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root, understood := rootCommand(), false
	root.PersistentPreRun = func(*cobra.Command, []string) { understood = true }
	if c, err := root.ExecuteContextC(ctx); err != nil {
		if !understood {
			err = misread(c, err)
		}
		fmt.Fprintln(os.Stderr, "freshet:", message(err))
		code := exitCode(ctx, err) // before stop ends ctx
		stop()
		os.Exit(code)
	}
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use: "freshet", Short: "Features from the database's own log", SilenceUsage: true, SilenceErrors: true,
		Example: "  freshet demo --once\n  freshet init shop",
	}
	root.AddCommand(demoCommand(), upCommand(), captureCommand(), nodeCommand(),
		snapshotCommand(), pauseCommand(), resumeCommand(), compareCommand(), switchCommand(), slotCommand(), deadCommand(), getCommand(), viewsCommand(), tailCommand(), cutCommand(), mergeCommand(), gateCommand(), modelCommand(), scoreCommand(),
		pipelineCommand(), tableCommand(), verifyCommand(), nodesCommand(), initCommand(), configCommand(), doctorCommand(), planCommand(), diffCommand(), applyCommand(), explainCommand(), testCommand(), benchCommand(), versionCommand())
	for _, c := range root.Commands() {
		if c.HasSubCommands() && !c.Runnable() {
			group(c)
		}
	}
	return root
}

// misread says how the command is written.
func misread(c *cobra.Command, err error) error {
	if !c.HasParent() {
		return fault.Wrap(fault.Usage, err, "this command line is not understood").ToMend("freshet --help, or --help behind a command, shows examples")
	}
	return fault.Wrap(fault.Usage, err, "this command line is not understood").ToMend("write %s; freshet %s --help shows examples", c.UseLine(), strings.TrimPrefix(c.CommandPath(), "freshet "))
}

func message(err error) string {
	if s, ok := status.FromError(err); ok && s.Code() != codes.Unknown {
		return s.Message()
	}
	return err.Error()
}

// exitCode follows CONTRACT section 3.
func exitCode(ctx context.Context, err error) int {
	if ctx.Err() != nil {
		return 130
	}
	return int(classOf(err))
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Example: "  freshet version", Args: cobra.NoArgs,
		Run: func(c *cobra.Command, _ []string) { fmt.Fprintln(c.OutOrStdout(), "freshet 0.1.0-dev") },
	}
}
