// Command makedata cuts one month out of the original nycflights13 files and writes the trimmed,
// compressed files that package demo embeds. The same input gives the same bytes.
//
//	go run ./internal/demo/makedata -from DIR -to internal/demo/data
//
// DIR holds flights.csv.zip (or flights.csv), planes.csv, airports.csv and airlines.csv as
// distributed. Kept are the columns that the demo reads, the flights of the month, and the planes
// that flew in it; airports and airlines are kept whole.
package main

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

func main() {
	from := flag.String("from", "", "folder with the original files")
	to := flag.String("to", "internal/demo/data", "folder to write to")
	month := flag.String("month", "1", "month of 2013 to keep")
	flag.Parse()
	if err := run(*from, *to, *month, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "makedata:", err)
		os.Exit(1)
	}
}

func run(from, to, month string, log io.Writer) error {
	flown := map[string]bool{}
	steps := []struct {
		name    string
		columns []string
		keep    func(get func(string) string) bool
	}{
		{
			"flights",
			[]string{
				"year", "month", "day", "dep_delay", "sched_arr_time", "arr_delay", "carrier", "flight",
				"tailnum", "origin", "dest", "air_time", "distance", "minute", "time_hour",
			},
			func(get func(string) string) bool {
				if get("month") != month {
					return false
				}
				flown[get("tailnum")] = true
				return true
			},
		},
		{
			"planes", []string{"tailnum", "year", "type", "manufacturer", "model", "engines", "seats", "engine"},
			func(get func(string) string) bool { return flown[get("tailnum")] },
		},
		{"airports", []string{"faa", "name", "lat", "lon", "alt", "tz", "dst"}, nil},
		{"airlines", []string{"carrier", "name"}, nil},
	}
	for _, s := range steps {
		in, err := open(from, s.name)
		if err != nil {
			return err
		}
		rows, err := trim(in, s.columns, s.keep)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		out, err := pack(rows)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		path := filepath.Join(to, s.name+".csv.gz")
		if err := os.WriteFile(path, out, 0o644); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		fmt.Fprintf(log, "%s: %d rows, %d bytes\n", path, len(rows)-1, len(out))
	}
	return nil
}

// open gives the text of one original file, plain or zipped.
func open(dir, name string) (io.Reader, error) {
	b, err := os.ReadFile(filepath.Join(dir, name+".csv"))
	if err == nil {
		return bytes.NewReader(b), nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read: %w", err)
	}
	if b, err = os.ReadFile(filepath.Join(dir, name+".csv.zip")); err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, fmt.Errorf("unzip %s: %w", name, err)
	}
	f, err := z.Open(name + ".csv")
	if err != nil {
		return nil, fmt.Errorf("unzip %s: %w", name, err)
	}
	return f, nil
}

func trim(in io.Reader, columns []string, keep func(func(string) string) bool) ([][]string, error) {
	r := csv.NewReader(in)
	header, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	at := make([]int, len(columns))
	for i, c := range columns {
		if at[i] = slices.Index(header, c); at[i] < 0 {
			return nil, fmt.Errorf("no column %s", c)
		}
	}
	out := [][]string{columns}
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("row %d: %w", len(out), err)
		}
		if keep != nil && !keep(func(c string) string { return row[slices.Index(header, c)] }) {
			continue
		}
		short := make([]string, len(at))
		for i, j := range at {
			short[i] = row[j]
		}
		out = append(out, short)
	}
}

// pack writes CSV through gzip without time or name in the header.
func pack(rows [][]string) ([]byte, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	if err := csv.NewWriter(z).WriteAll(rows); err != nil {
		return nil, fmt.Errorf("csv: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	return b.Bytes(), nil
}
