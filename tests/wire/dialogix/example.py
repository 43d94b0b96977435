from openai import OpenAI

client = OpenAI(base_url="https://api.dialogix.ch/v1", api_key="ak-your-key")
response = client.chat.completions.create(model="aion-v3", messages=[{"role": "user", "content": "Hello AION!"}])
print(response.choices[0].message.content)
