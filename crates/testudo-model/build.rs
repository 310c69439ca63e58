//! Compiles `proto/mesh.proto` with protox, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/mesh.proto");
    if std::env::var_os("CARGO_FEATURE_MESH").is_some() {
        let descriptors = protox::compile(["mesh.proto"], ["proto"])?;
        tonic_prost_build::configure().compile_fds(descriptors)?;
    }
    Ok(())
}
