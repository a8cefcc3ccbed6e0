// Command gen compiles the proto with Go alone and runs the two generators of go.mod's tools.
//
//	go run ./api/gen          writes api/freshet/v1/*.pb.go
//	go run ./api/gen -check   exits 1 when what is checked in differs
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

const file = "freshet/v1/freshet.proto"

func main() {
	check := flag.Bool("check", false, "compare only")
	flag.Parse()
	if err := run(context.Background(), *check); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, check bool) error {
	c := protocompile.Compiler{
		Resolver:       &protocompile.SourceResolver{ImportPaths: []string{"api"}},
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	files, err := c.Compile(ctx, file)
	if err != nil {
		return fmt.Errorf("run it in the repository's root: %w", err)
	}
	request, err := proto.Marshal(&pluginpb.CodeGeneratorRequest{
		FileToGenerate: []string{file}, Parameter: new("paths=source_relative"),
		ProtoFile: []*descriptorpb.FileDescriptorProto{protoutil.ProtoFromFileDescriptor(files[0])},
	})
	if err != nil {
		return fmt.Errorf("the generators' request: %w", err)
	}
	for _, tool := range []string{"protoc-gen-go", "protoc-gen-go-grpc"} {
		if err := generate(ctx, tool, request, check); err != nil {
			return err
		}
	}
	return nil
}

func generate(ctx context.Context, tool string, request []byte, check bool) error {
	cmd := exec.CommandContext(ctx, "go", "tool", tool)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(request), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s: %w", tool, err)
	}
	var response pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(out, &response); err != nil {
		return fmt.Errorf("%s: %w", tool, err)
	}
	if response.Error != nil {
		return fmt.Errorf("%s: %s", tool, *response.Error)
	}
	for _, f := range response.File {
		path := filepath.Join("api", f.GetName())
		if check {
			if have, err := os.ReadFile(path); err != nil || string(have) != f.GetContent() {
				return fmt.Errorf("%s is not what the proto generates: run go run ./api/gen", path)
			}
			continue
		}
		if err := os.WriteFile(path, []byte(f.GetContent()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
