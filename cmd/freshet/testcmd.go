package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/freshet-io/freshet/internal/fault"
	"github.com/freshet-io/freshet/internal/fixture"
)

// testOptions are the flags of freshet test.
type testOptions struct {
	file, dir, run, output, junit string
	update                        bool
}

func testCommand() *cobra.Command {
	var o testOptions
	c := &cobra.Command{
		Use: "test [-f DIR] [-c FILE]", Short: "Run the fixtures beside the definitions: changes in, rows out; nothing needs to run",
		Example: "  freshet test\n  freshet test -c freshet.yaml\n  freshet test -f definitions\n  freshet test -f definitions --run 'late|cancelled' --update\n  freshet test -f definitions --junit report.xml", Args: cobra.NoArgs,
		Long: "Runs the fixtures in the folder " + fixture.Folder + " of the definitions: changes of tables in, rows and deltas of views out. Nothing needs to run,\n" +
			"and the configuration is only asked where the definitions are: without one they are in the directory definitions.",
		RunE: func(c *cobra.Command, _ []string) error { return runTests(c, o) },
	}
	configFlag(c, &o.file)
	definitionsFlag(c, &o.dir)
	c.Flags().StringVar(&o.run, "run", "", "only fixtures whose name matches this regular expression")
	c.Flags().BoolVar(&o.update, "update", false, "write what is served into the files as what is expected")
	c.Flags().StringVar(&o.junit, "junit", "", "write the results to this file too, as JUnit's XML")
	outputFlag(c, &o.output)
	return c
}

func runTests(c *cobra.Command, o testOptions) error {
	if err := checkOutput(o.output); err != nil {
		return err
	}
	var options fixture.Options
	if o.run != "" {
		re, err := regexp.Compile(o.run)
		if err != nil {
			return fault.Wrap(fault.Usage, err, "--run %q", o.run)
		}
		options.Run = re
	}
	dir, err := definitionsDir(o.file, o.dir)
	if err != nil {
		return err
	}
	suite, err := loadSuite(dir)
	if err != nil {
		return err
	}
	results, err := suite.Run(c.Context(), options)
	if err != nil {
		return err
	}
	if o.junit != "" {
		if err := writeJUnit(o.junit, results); err != nil {
			return err
		}
	}
	if o.output != "table" {
		if err := show(nil, results, o.output); err != nil {
			return err
		}
	} else if err := printResults(c.OutOrStdout(), results); err != nil {
		return err
	}
	if o.update {
		return updateFixtures(c.OutOrStdout(), results)
	}
	failed := 0
	for _, r := range results {
		if len(r.Differences) > 0 {
			failed++
		}
	}
	if failed > 0 {
		return fault.New(fault.Failed, "%d of %d fixtures differ", failed, len(results)).
			ToMend("correct the definitions or what is expected; --update writes what is served as what is expected")
	}
	return nil
}

// loadSuite reads definitions and their fixtures.
func loadSuite(dir string) (*fixture.Suite, error) {
	defs, errs := outlined(dir)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return fixture.Load(os.DirFS(dir), dir, defs)
}

func printResults(out io.Writer, results []fixture.Result) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, r := range results {
		verdict := "ok"
		if len(r.Differences) > 0 {
			verdict = "FAIL"
		}
		fmt.Fprintf(w, "%s\t%s\t%s:%d\t%d steps, %d checks\n", verdict, r.Name, r.File, r.Line, r.Steps, r.Checked)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, r := range results {
		for _, d := range r.Differences {
			fmt.Fprintln(out, d)
		}
	}
	return nil
}

// updateFixtures writes what was served into the files.
func updateFixtures(out io.Writer, results []fixture.Result) error {
	files, left, err := fixture.Update(results, os.ReadFile)
	if err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.FromSlash(name), text, 0o644); err != nil {
			return err
		}
		fmt.Fprintln(out, "updated:", name)
	}
	for _, d := range left {
		fmt.Fprintln(out, "to be written by hand:", d)
	}
	if len(left) > 0 {
		return fault.New(fault.Failed, "%d differences cannot be written by --update", len(left))
	}
	return nil
}

// junitSuite is what build servers read.
type junitSuite struct {
	XMLName  xml.Name    `xml:"testsuite"`
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Name    string        `xml:"name,attr"`
	Class   string        `xml:"classname,attr"`
	File    string        `xml:"file,attr"`
	Failure *junitFailure `xml:"failure"`
}

type junitFailure struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

func writeJUnit(file string, results []fixture.Result) error {
	s := junitSuite{Name: "freshet test", Tests: len(results)}
	for _, r := range results {
		k := junitCase{Name: r.Name, Class: r.File, File: r.File}
		if len(r.Differences) > 0 {
			s.Failures++
			k.Failure = &junitFailure{Message: fmt.Sprintf("%d differences", len(r.Differences))}
			for _, d := range r.Differences {
				k.Failure.Text += d.String() + "\n"
			}
		}
		s.Cases = append(s.Cases, k)
	}
	text, err := xml.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append([]byte(xml.Header), append(text, '\n')...), 0o644)
}
